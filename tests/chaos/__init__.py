"""Three real engines, a real Kafka, a stream that never stops, and everything that can go wrong with them.

    feeder       a thread that produces simulated events; some are bad, and a header says so
    engines      three processes of one group; each can be killed, stopped, or told to die at a labelled point
    faults       what is done to engines, broker and disks; a deck of them, shuffled by one seed
    subscriber   an ordinary read_committed consumer that sees everything the moment it is published
    mirrored     subscribers as Shoal ships them, whose tables must be the oracle's at the end
    auditor      judges what the subscriber sees, by itself: it shares no code with what it judges
    oracle       another process: a fresh pipeline over the recorded steps, without any interruption

Always asked, after every fault: is there a new step? At the end: are the bytes those of the oracle, and does
every account balance? What is found is booked under the fault during which it was seen.

    python -m chaos --faults 200 --seed 7          with the folder `tests` on PYTHONPATH, or: make chaos
"""
