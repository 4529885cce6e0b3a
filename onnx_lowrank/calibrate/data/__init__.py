"""Sample inputs: archives, arrays and images, or made-up images where there are none."""
