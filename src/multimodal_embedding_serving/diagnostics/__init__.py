"""Tools for operators: check a machine (doctor), compare models, benchmark one."""
