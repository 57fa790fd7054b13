"""What an operator asks of a model or a machine: doctor, compare, benchmark."""
