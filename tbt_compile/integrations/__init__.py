"""Where other libraries meet this one: transformers' `from_pretrained`, its hub, and torchao's flows."""
