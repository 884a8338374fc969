"""Where outputs go: a Kafka transaction, files that survive kill -9, or memory."""
