"""From a measured configuration to something that answers: the loader that travels with a checkpoint, vLLM's server, recorded answers."""
