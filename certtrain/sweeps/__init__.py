"""Many runs together: what they are compared by, their summary, search spaces and studies."""
