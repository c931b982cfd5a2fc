"""What a training does beside its steps, as Lightning's callbacks."""
