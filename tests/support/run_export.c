/* Runs one signature of an export through TensorFlow's C API: what a server does, without Python.

   run_export EXPORT LABEL_OP SEED_OP OUTPUT_OP INDEX [OUTPUT_OP INDEX ...]

   Each line of stdin is a request, SEED LABEL. Prints the bytes of each output in hexadecimal, a line an output; strings are those
   of their elements. What TensorFlow refuses is one line "! CODE MESSAGE" in place of the outputs. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

#define MAX_OUTPUTS 16
#define MAX_LINE 1024

static int is_refused(const TF_Status* status) {
  if (TF_GetCode(status) == TF_OK) return 0;
  printf("! %d ", TF_GetCode(status));
  for (const char* c = TF_Message(status); *c; ++c) putchar(*c == '\n' ? ' ' : *c);
  printf("\n");
  return 1;
}

static TF_Output output_of(TF_Graph* graph, const char* name, int index) {
  TF_Output output = {TF_GraphOperationByName(graph, name), index};
  if (output.oper == NULL) {
    fprintf(stderr, "no operation %s\n", name);
    exit(2);
  }
  return output;
}

static void print_hex(const unsigned char* bytes, size_t count) {
  for (size_t k = 0; k < count; ++k) printf("%02x", bytes[k]);
}

static void print_tensor(const TF_Tensor* tensor) {
  if (TF_TensorType(tensor) == TF_STRING) {
    const TF_TString* strings = (const TF_TString*)TF_TensorData(tensor);
    for (int64_t k = 0; k < TF_TensorElementCount(tensor); ++k)
      print_hex((const unsigned char*)TF_StringGetDataPointer(&strings[k]), TF_StringGetSize(&strings[k]));
  } else {
    print_hex((const unsigned char*)TF_TensorData(tensor), TF_TensorByteSize(tensor));
  }
  printf("\n");
}

int main(int argc, char** argv) {
  const int count = (argc - 4) / 2;
  if (argc < 6 || argc % 2 != 0 || count > MAX_OUTPUTS) return 2;
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  if (is_refused(status)) return 1;

  const TF_Output inputs[] = {output_of(graph, argv[2], 0), output_of(graph, argv[3], 0)};
  TF_Output outputs[MAX_OUTPUTS];
  for (int k = 0; k < count; ++k) outputs[k] = output_of(graph, argv[4 + 2 * k], atoi(argv[5 + 2 * k]));

  char line[MAX_LINE];
  while (fgets(line, sizeof line, stdin)) {
    const int64_t dims[] = {1};
    char* text;
    TF_Tensor* seed = TF_AllocateTensor(TF_INT64, dims, 1, sizeof(int64_t));
    *(int64_t*)TF_TensorData(seed) = strtoll(line, &text, 10);
    text += strspn(text, " ");
    TF_Tensor* label = TF_AllocateTensor(TF_STRING, dims, 1, sizeof(TF_TString));
    TF_StringInit((TF_TString*)TF_TensorData(label));
    TF_StringCopy((TF_TString*)TF_TensorData(label), text, strcspn(text, "\n"));

    TF_Tensor* const values[] = {label, seed};
    TF_Tensor* results[MAX_OUTPUTS];
    TF_SessionRun(session, NULL, inputs, values, 2, outputs, results, count, NULL, 0, NULL, status);
    if (!is_refused(status)) {
      for (int k = 0; k < count; ++k) {
        print_tensor(results[k]);
        TF_DeleteTensor(results[k]);
      }
    }
    TF_DeleteTensor(label);
    TF_DeleteTensor(seed);
  }
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
