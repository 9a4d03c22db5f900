"""Run by IPython kernels under `make lab`: run notebooks name `data/` and `outputs/` from the top of the project."""
import os
import warnings
from pathlib import Path

if Path.cwd() == Path(__file__).resolve().parents[1] / "nbs" / "runs": os.chdir("../..")
warnings.filterwarnings("ignore", message="IProgress not found")  # progress bars are text here
