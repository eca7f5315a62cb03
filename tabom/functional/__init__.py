"""Pure tensor functions: the method's equations, batched, in nats, without configuration or input and output."""
