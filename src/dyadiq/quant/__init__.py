"""From a Graph and a BitPlan to a trainable quantized module, and from there to an IntegerProgram."""
