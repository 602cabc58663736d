import os
import pathlib
import signal
import tempfile
import threading
import time
import unittest

from mq_embedded import Closed, Invalid, Io, Locked, Mq, MqError


class Test(unittest.TestCase):
    def test_what_is_sent_is_polled_until_it_is_acknowledged(self):
        with tempfile.TemporaryDirectory() as folder:
            with Mq(folder) as mq:
                with self.assertRaises(Locked):
                    Mq(folder)
                with self.assertRaises(Io):
                    Mq("/dev/null/store")
                sent = mq.send("Jobs", b"resize a.png", tag="resize", keys="7")
                self.assertEqual((len(sent.id), sent.queue_offset), (32, 0))
                with mq.consumer("resizers", "Jobs", "resize") as consumer:
                    [job] = consumer.poll(timeout=5)
                    self.assertEqual((job.topic, job.body, job.tag, job.keys, job.id), ("Jobs", b"resize a.png", "resize", "7", sent.id))
                    self.assertEqual(consumer.poll(timeout=0), [])
                    del job  # not acknowledged
            with Mq(folder, sync=True) as mq, mq.consumer("resizers", "Jobs") as consumer:
                [job] = consumer.poll(timeout=5)
                job.ack()
                with self.assertRaises(Invalid):
                    job.ack()
                with self.assertRaises(ValueError):
                    consumer.poll(timeout=-1)
                with self.assertRaises(Invalid) as refusal:
                    mq.send("no such name!", b"")
                self.assertIsInstance(refusal.exception, MqError)
            with self.assertRaises(Closed):
                mq.send("Jobs", b"")
            with Mq(pathlib.Path(folder)) as mq, mq.consumer("resizers", "Jobs") as consumer:
                self.assertEqual(consumer.poll(timeout=0), [])

    def test_who_waits_is_woken_by_another_thread(self):
        with tempfile.TemporaryDirectory() as folder, Mq(folder) as mq:
            mq.send("T", b"first")
            with mq.consumer("g", "T") as consumer:
                consumer.poll(timeout=5)[0].ack()
                got = []
                waits = threading.Thread(target=lambda: got.extend(consumer.poll(timeout=30)))
                waits.start()
                mq.send("T", b"second")
                waits.join(20)
                self.assertEqual([m.body for m in got], [b"second"])

    def test_what_failed_comes_again(self):
        with tempfile.TemporaryDirectory() as folder, Mq(folder) as mq:
            mq.send("T", b"\0 \xff")
            with mq.consumer("g", "T") as consumer:
                [job] = consumer.poll(timeout=5)
                job.retry()
                with self.assertRaises(Invalid):
                    job.body
                [job] = consumer.poll(timeout=60)  # 10 s, the delay after the first failure
                self.assertEqual((job.topic, job.body, job.reconsume_times), ("T", b"\0 \xff", 1))
                job.ack()

    def test_waiting_ends_with_a_signal_and_when_the_consumer_is_closed(self):
        with tempfile.TemporaryDirectory() as folder, Mq(folder) as mq:
            consumer = mq.consumer("g", "T")
            # Whoever started this may ignore the signal.
            before = signal.signal(signal.SIGINT, signal.default_int_handler)
            self.addCleanup(signal.signal, signal.SIGINT, before)
            start = time.monotonic()
            with self.assertRaises(KeyboardInterrupt):
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                consumer.poll(timeout=30)
            threading.Timer(0.1, consumer.close).start()
            with self.assertRaisesRegex(Closed, "consumer is closed"):
                consumer.poll(timeout=30)
            self.assertLess(time.monotonic() - start, 30)


if __name__ == "__main__":
    unittest.main()
