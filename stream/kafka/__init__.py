"""Everything that speaks Kafka except the sink: clients, topics, the group, the source, the check-up."""
