"""The TensorFlow ops that an untrusted model may contain, by name.

Each op computes from tensors in memory, or reads and changes the model's own variables and tables. None accesses a file, the
network, Python, a session on another device or a program in a string, and none prints. Random ops and `Assert` have no effect
outside of the process. All other ops are refused, even harmless ones. Add an op only after reading its documentation, and
never by a pattern.
"""

_STRUCTURE = """
    NoOp Const Placeholder PlaceholderV2 PlaceholderWithDefault FakeParam Identity IdentityN Snapshot StopGradient
    PreventGradient EnsureShape GuaranteeConst ControlTrigger Assert CheckNumerics CheckNumericsV2
    PartitionedCall StatefulPartitionedCall
    If StatelessIf While StatelessWhile Case StatelessCase For
    Switch Merge Enter Exit NextIteration LoopCond RefSwitch RefMerge RefEnter RefExit RefNextIteration RefIdentity RefSelect
    EmptyTensorList TensorListReserve TensorListResize TensorListLength TensorListElementShape TensorListFromTensor
    TensorListGetItem TensorListSetItem TensorListPushBack TensorListPushBackBatch TensorListPopBack TensorListStack
    TensorListGather TensorListScatter TensorListScatterV2 TensorListScatterIntoExistingList TensorListConcat
    TensorListConcatV2 TensorListConcatLists TensorListSplit
    TensorArrayV3 TensorArrayGradV3 TensorArrayGradWithShape TensorArrayReadV3 TensorArrayWriteV3 TensorArrayGatherV3
    TensorArrayScatterV3 TensorArrayConcatV3 TensorArraySplitV3 TensorArraySizeV3 TensorArrayCloseV3
    StackV2 StackPushV2 StackPopV2 StackCloseV2
"""

_STATE = """
    VarHandleOp VarIsInitializedOp VariableShape ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp
    Variable VariableV2 IsVariableInitialized Assign AssignAdd AssignSub CountUpTo ResourceCountUpTo
    ResourceGather ResourceGatherNd ResourceStridedSliceAssign ResourceScatterUpdate ResourceScatterAdd ResourceScatterSub
    ResourceScatterMul ResourceScatterDiv ResourceScatterMin ResourceScatterMax ResourceScatterNdUpdate ResourceScatterNdAdd
    ResourceScatterNdSub ScatterUpdate ScatterAdd ScatterSub ScatterMul ScatterDiv ScatterMin ScatterMax ScatterNdUpdate
    ScatterNdAdd ScatterNdSub
    HashTable HashTableV2 AnonymousHashTable MutableHashTable MutableHashTableV2 AnonymousMutableHashTable InitializeTable
    InitializeTableV2 LookupTableFind LookupTableFindV2 LookupTableImport LookupTableImportV2 LookupTableInsert
    LookupTableInsertV2 LookupTableExport LookupTableExportV2 LookupTableSize LookupTableSizeV2 LookupTableRemoveV2
"""

_ARRAYS = """
    Shape ShapeN Size Rank Reshape Squeeze ExpandDims Fill ZerosLike OnesLike Range LinSpace BroadcastTo BroadcastArgs
    BroadcastGradientArgs Concat ConcatV2 ConcatOffset Pack Unpack ParallelConcat Split SplitV Slice StridedSlice
    StridedSliceGrad StridedSliceAssign TensorStridedSliceUpdate Tile TileGrad Pad PadV2 MirrorPad MirrorPadGrad Transpose
    ConjugateTranspose Reverse ReverseV2 ReverseSequence Roll Gather GatherV2 GatherNd ScatterNd ScatterNdNonAliasingAdd
    TensorScatterUpdate TensorScatterAdd TensorScatterSub TensorScatterMin TensorScatterMax
    DynamicPartition DynamicStitch ParallelDynamicStitch OneHot Where Select SelectV2 Unique UniqueV2
    UniqueWithCounts UniqueWithCountsV2 ListDiff InvertPermutation UnravelIndex LowerBound UpperBound
    Diag DiagPart MatrixDiag MatrixDiagV2 MatrixDiagV3 MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixSetDiag
    MatrixSetDiagV2 MatrixSetDiagV3 MatrixBandPart SpaceToBatch SpaceToBatchND BatchToSpace BatchToSpaceND SpaceToDepth
    DepthToSpace ExtractImagePatches ExtractVolumePatches Cast Bitcast
    SegmentSum SegmentSumV2 SegmentMean SegmentProd SegmentProdV2 SegmentMin SegmentMinV2 SegmentMax SegmentMaxV2
    UnsortedSegmentSum UnsortedSegmentProd UnsortedSegmentMin UnsortedSegmentMax
"""

_MATHS = """
    Abs Neg Sign Square SquaredDifference Sqrt SqrtGrad Rsqrt RsqrtGrad Reciprocal ReciprocalGrad Inv InvGrad Exp Expm1 Log
    Log1p Pow Sin Cos Tan Asin Acos Atan Atan2 Sinh Cosh Tanh TanhGrad Asinh Acosh Atanh Sigmoid SigmoidGrad
    Erf Erfc Erfinv Ndtri Lgamma Digamma Polygamma Zeta Igamma Igammac IgammaGradA Betainc
    BesselI0 BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1
    Dawsn Expint FresnelCos FresnelSin Spence Xdivy Xlogy Xlog1py NextAfter
    Floor Ceil Round Rint Add AddV2 AddN AccumulateNV2 Sub Mul MulNoNan Div DivNoNan RealDiv FloorDiv FloorMod TruncateDiv
    TruncateMod Mod Maximum Minimum ClipByValue IsFinite IsInf IsNan
    Equal NotEqual ApproximateEqual Less LessEqual Greater GreaterEqual LogicalAnd LogicalOr LogicalNot All Any
    BitwiseAnd BitwiseOr BitwiseXor Invert LeftShift RightShift PopulationCount
    Sum Mean Prod Max Min EuclideanNorm ArgMax ArgMin Cumsum Cumprod CumulativeLogsumexp Bucketize Bincount DenseBincount
    HistogramFixedWidth TopK TopKV2 ApproxTopK InTopK InTopKV2 NthElement
    MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 SparseMatMul Einsum Cross Cholesky CholeskyGrad Qr Lu Svd Eig SelfAdjointEig
    SelfAdjointEigV2 MatrixInverse MatrixDeterminant LogMatrixDeterminant MatrixSolve MatrixSolveLs MatrixTriangularSolve
    MatrixSquareRoot MatrixExponential MatrixLogarithm BandedTriangularSolve TridiagonalSolve TridiagonalMatMul
    Complex ComplexAbs Real Imag Conj Angle
    FFT FFT2D FFT3D FFTND IFFT IFFT2D IFFT3D IFFTND RFFT RFFT2D RFFT3D RFFTND IRFFT IRFFT2D IRFFT3D IRFFTND
    AudioSpectrogram Mfcc
"""

_NETWORKS = """
    BiasAdd BiasAddV1 BiasAddGrad Conv Conv2D Conv2DBackpropInput Conv2DBackpropInputV2 Conv2DBackpropFilter
    Conv2DBackpropFilterV2 Conv3D Conv3DBackpropInput Conv3DBackpropInputV2 Conv3DBackpropFilter Conv3DBackpropFilterV2
    DepthwiseConv2dNative DepthwiseConv2dNativeBackpropInput DepthwiseConv2dNativeBackpropFilter Dilation2D
    Dilation2DBackpropInput Dilation2DBackpropFilter FusedPadConv2D FusedResizeAndPadConv2D
    BatchNormWithGlobalNormalization BatchNormWithGlobalNormalizationGrad FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
    FusedBatchNormGrad FusedBatchNormGradV2 FusedBatchNormGradV3 LRN LRNGrad L2Loss DataFormatDimMap DataFormatVecPermute
    AvgPool AvgPoolGrad AvgPool3D AvgPool3DGrad MaxPool MaxPoolV2 MaxPoolGrad MaxPoolGradV2 MaxPoolGradGrad MaxPoolGradGradV2
    MaxPoolWithArgmax MaxPoolGradWithArgmax MaxPool3D MaxPool3DGrad MaxPool3DGradGrad FractionalAvgPool FractionalAvgPoolGrad
    FractionalMaxPool FractionalMaxPoolGrad
    Relu ReluGrad Relu6 Relu6Grad LeakyRelu LeakyReluGrad Elu EluGrad Selu SeluGrad Softplus SoftplusGrad Softsign
    SoftsignGrad Softmax LogSoftmax SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits
    BlockLSTM BlockLSTMV2 BlockLSTMGrad BlockLSTMGradV2 LSTMBlockCell LSTMBlockCellGrad GRUBlockCell GRUBlockCellGrad
    FakeQuantWithMinMaxArgs FakeQuantWithMinMaxArgsGradient FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsGradient
    FakeQuantWithMinMaxVarsPerChannel FakeQuantWithMinMaxVarsPerChannelGradient QuantizeAndDequantize QuantizeAndDequantizeV2
    QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeAndDequantizeV4Grad QuantizeV2 Dequantize
"""

_IMAGES = """
    ResizeNearestNeighbor ResizeNearestNeighborGrad ResizeBilinear ResizeBilinearGrad ResizeBicubic ResizeBicubicGrad ResizeArea
    ScaleAndTranslate ScaleAndTranslateGrad CropAndResize CropAndResizeGradImage CropAndResizeGradBoxes ExtractGlimpse
    ExtractGlimpseV2 ImageProjectiveTransformV2 ImageProjectiveTransformV3 AdjustContrast AdjustContrastv2 AdjustHue
    AdjustSaturation RGBToHSV HSVToRGB
"""

_RANDOM = """
    RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal ParameterizedTruncatedNormal RandomShuffle RandomGamma
    RandomGammaGrad RandomPoisson RandomPoissonV2 Multinomial RandomIndexShuffle
    StatelessRandomUniform StatelessRandomUniformV2 StatelessRandomUniformInt StatelessRandomUniformIntV2
    StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomNormal StatelessRandomNormalV2
    StatelessTruncatedNormal StatelessTruncatedNormalV2 StatelessParameterizedTruncatedNormal StatelessMultinomial
    StatelessRandomBinomial StatelessRandomGammaV2 StatelessRandomGammaV3 StatelessRandomPoisson StatelessShuffle
    StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg
    RngSkip RngReadAndSkip NonDeterministicInts StatefulUniform StatefulUniformInt StatefulUniformFullInt
    StatefulStandardNormal StatefulStandardNormalV2 StatefulTruncatedNormal StatefulRandomBinomial
"""

# Left in graphs that were exported from training. These summaries are strings in memory; others write files.
_TRAINING = """
    ApplyGradientDescent ApplyMomentum ApplyAdam ApplyRMSProp ApplyCenteredRMSProp ApplyAdagrad ApplyAdadelta ApplyFtrl
    ResourceApplyGradientDescent ResourceApplyMomentum ResourceApplyKerasMomentum ResourceApplyAdam ResourceApplyRMSProp
    ResourceApplyCenteredRMSProp ResourceApplyAdagrad ResourceApplyAdagradV2 ResourceApplyAdadelta ResourceApplyFtrl
    ScalarSummary HistogramSummary ImageSummary MergeSummary
"""

ALLOWED_OPS = frozenset((_STRUCTURE + _STATE + _ARRAYS + _MATHS + _NETWORKS + _IMAGES + _RANDOM + _TRAINING).split())

# Allowed in a model that takes texts as strings.
_TEXTS = """
    StringLower StringUpper StringStrip StringLength StringSplit StringSplitV2 StringNGrams Substr UnicodeTranscode
    UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode RegexReplace StaticRegexReplace RegexFullMatch StringToHashBucket
    StringToHashBucketFast StringToHashBucketStrong StringToNumber AsString RaggedRange RaggedGather RaggedTensorToTensor
    SparseToDense SparseReshape SparseFillEmptyRows SparseSegmentSum SparseSegmentMean SparseSegmentSqrtN
"""
TEXT_OPS = frozenset(_TEXTS.split())

# Allowed only in a saver. A saver writes files only if the variables are saved again, which tfgradgen never does.
SAVE_OPS = frozenset(
    {"SaveV2", "MergeV2Checkpoints", "ShardedFilename", "StringJoin", "StaticRegexFullMatch", "DisableCopyOnRead"}
)
RESTORE_OPS = frozenset({"RestoreV2"})

# Allowed ops that may use the results of such ops within a saver.
_SAVER_PARTS = """
    NoOp Identity Pack ExpandDims Reshape Select SelectV2 Assign AssignVariableOp LookupTableImport LookupTableImportV2
    PartitionedCall StatefulPartitionedCall
"""
SAVER_PARTS = frozenset(_SAVER_PARTS.split())
