"""The prerequisites, one file per area: `measure_*` looks at the machine, `check_*` judges what was measured."""
