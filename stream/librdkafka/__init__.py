"""Kafka by librdkafka (the library confluent-kafka, an extra): the same ports as `stream/kafka`, read faster.

Topics are looked at and created with kafka-python, which is always there. Import this package only when
`kafka.client` is "confluent": its modules need the extra.
"""
