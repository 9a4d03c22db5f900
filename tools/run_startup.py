"""Run by the IPython kernels of `tools/run.py`: nobody is there to move a slider, so progress bars are text, as they are in a terminal."""
import sys

sys.modules["ipywidgets"] = None  # to be imported by nobody, tqdm above all
