"""Pretrained models behind one interface: generators, classifiers, discriminators and encoders."""
