"""What the algorithms are made of: loops in LLVM IR, register tiles, copies between layouts, transforms, finishes."""
