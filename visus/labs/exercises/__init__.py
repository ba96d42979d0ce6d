"""One file a lab, handed out by `visus lab start`: functions to be written, without their solutions."""
