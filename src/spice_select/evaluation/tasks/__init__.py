"""The paper's eight benchmarks through EleutherAI's lm-eval (the extra `tasks`)."""
