"""One solve: messages between the state machines and the runner."""
