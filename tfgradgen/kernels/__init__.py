"""The registry of gradient-based kernels: one file each; add a file and its FAMILY here."""

from tfgradgen.kernels import hmc, mala

KERNELS = {family.name: family for family in (mala.FAMILY, hmc.FAMILY)}
