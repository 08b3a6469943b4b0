"""Training routers that are language models or small networks: records, supervised training, reinforcement learning."""
