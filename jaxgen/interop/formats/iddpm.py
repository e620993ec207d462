"""Weights of improved DDPM (Nichol and Dhariwal 2021), which have the names of ADM's."""

from jaxgen.interop.formats import adm

FORMAT = adm.FORMAT._replace(config="iddpm")
