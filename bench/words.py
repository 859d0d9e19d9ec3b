"""What the page says around the figures. Whoever changes what is measured changes this too."""

INTRODUCTION = """\
# Performance

Written by `python -m bench`. To measure again, in a clone of the project:

```sh
pip install -e '.[bench]'
python -m bench.peers install   # once, takes minutes: each peer in an environment of its own
apt-get install -y redis-server # for the peers that need it; the benchmark starts and stops it
python -m bench                 # all rows, in less than ten minutes; writes this page
python -m bench 5 7             # only these rows; writes nothing
```

With `BENCH_TURNS=1` before it the benchmark takes one turn instead of several: `.ci/run` follows
these commands in this way, so that they are known to work. Without the peers rows 11 to 13 are
reported as missing, and so is each peer that cannot be installed or does not run. A run that is
asked to end (SIGTERM, Ctrl-C) ends its servers as well; one that is killed with SIGKILL cannot. The
words on this page are in `bench/words.py`.

Every figure is a **ratio of two things that took turns within one run** on one machine: the median
over the turns, and in brackets from where to where the turns went. Rates and microseconds stand
below the table to make sense of the ratios; they say as much about the machine as about the code.
How wide the brackets are shows what else the machine was doing. Nothing here is part of the test
suite: a test that measures time fails on a busy machine."""

MEANINGS = {
    1: """\
What the whole of trio-jobs costs beside the least that Hypercorn can do with a request: parse it,
read the body, send 201 and the same headers and bytes. Ours parses the JSON, checks it, makes an id
and a record, queues it, has a worker process it, and enforces every limit of the front door. It is
the server's own CPU, in user and kernel mode, of all its threads; what the client costs does not
matter. The two are close because the front door runs a request in the connection's one task, and
reads a short body before it calls the application, where plain Hypercorn starts a task and opens
channels for each request.""",
    2: """\
First beside a route of Quart-Trio as it comes, behind the same front door, that reads the body and
answers a constant: below 1 means that taking a job in *and processing it* costs less than the
second task, the body buffer and the nursery which Quart-Trio makes for each request, and which our
`api/connection.py` does without. Then beside a route that is taken by that same
`api/connection.py`, the strictest comparison there is: what it is above 1 is all that a job costs,
from its JSON to its recorded end.""",
    3: """\
A batch pays for the request once. Jobs are admitted, that is: checked, in the store and in the
channel, all or none. The ten workers run meanwhile, in the same event loop.""",
    4: """\
A stream is slowed down to the speed of the workers by TCP, with a buffer of 1,000. Counted are
jobs that are *completed*, so this is everything: parse, wait for room, admit, queue, claim, run,
record, drop the oldest. The second figure compares the CPU of the two servers, which a busy machine
falsifies less.""",
    5: """\
What the core itself costs: id, time, record, order, claim, cancel scope, handler, ending, dropping
the oldest completed job. Beside it the same number of items through nothing but Trio's memory
channel, which is the least that handing work to a task can cost in this event loop. The second
figure is arithmetic: the same with the time taken off that one empty `trio.CancelScope` takes.""",
    6: """\
No operation walks over the jobs. What grows is the time that memory takes to answer: a million jobs
do not fit into the processor's caches, a thousand do. So each lookup is shown twice: of jobs from
all over the store, after other work has had the caches, and of the same ones once more. Once more,
`get` grows hardly at all; and what it grows by at first, the lookup in a plain dict of as many
entries grows by as well, which is nothing but the hardware. A page is a hundred lookups.""",
    7: """\
A waiting worker is a parked task. What more of them cost is memory that is further away, and the
end of ten thousand tasks, which is in the figure.""",
    8: """\
The growth of the whole process, the channel and the index included.""",
    9: """\
Nothing polls. Connections and waiters are entries in epoll and in Trio's queue of deadlines. The
clock that was read has a resolution of a nanosecond.""",
    10: """\
From the start of `python -m trio_jobs` until the first `POST /jobs` has been answered with 201,
beside the import of the web framework alone.""",
    11: """\
Each queue by its own best way to submit many jobs, with ten jobs at a time and one process of
workers; ours by `POST /jobs/batch`, and with more jobs, since as few would take it milliseconds.
What makes the difference is not Python but the broker: every job of a queue with Redis is several
round trips between processes, and survives a crash of them, **which a job of trio-jobs does not**.
Where losing the queue with the process is not acceptable, the queues above are the right choice,
whatever this row says.""",
    12: """\
What a team gets that submits jobs over HTTP, 16 connections: the queues behind FastAPI have three
processes at work beside the client (web, Redis, worker), ours one, and this machine has few cores.
BackgroundTasks keep nothing, bound nothing and tell nobody how it ended; they run in a server
written in C (uvloop, httptools). The figure is given as it is.""",
    13: """\
The time from just before the submission until the handler runs. For trio-jobs it contains the
HTTP request, for the others their own client without HTTP: a request alone takes this machine some
0.4 ms of CPU, which is what keeps our median behind the best of them, and it is not taken off. The
99th percentile is where the other processes of a queue show. A queue that completes fewer than 500
jobs a second on this machine falls ever further behind here, which is what the figure then
shows.""",
}

LIMITS = """\
## Where the time goes, and what was tried

**One request** (samples of the server's stack under row 1's load): Trio 24 %, nearly half of it
sending and receiving; h11 19 %; Quart with Werkzeug, Flask and Quart-Trio 28 %; the standard
library 8 %, called by those; our front door 8 %; and everything that is about jobs, from the route
to the worker, 9 %. So even a job for nothing would leave nine tenths. What would help is upstream:
h11 validates the headers of our own answer again, and Quart builds a URL adapter, two contexts and
the list of blueprints for each request.

**One job inside the process** (row 5; each part alone, the fastest of a hundred repetitions, and so
without the cache misses of a long run):

| part | µs |
|---|---|
| Trio's memory channel, and running a task for the item | 2.75 |
| Trio's cancel scope around the handler | 4.4 |
| submit, but for the channel: id 0.60, time 0.20, record, index, checks | 1.65 |
| claim: check, time 0.20, new record, note for `Retry-After` | 0.76 |
| processor: find the handler, decode, contextvar, `RunningJob`, call, ending, encode | 1.7 |
| complete: check, time 0.20, new record, size, wake who waits | 1.3 |
| drop of the oldest completed job | 0.67 |

The bound of 0.2 leaves five times the channel, 13.75 µs; channel and scope are 7.2 of it. A scope
for each job is what makes a cancel, a time limit, and a handler that leaves a scope open harmless,
so it stays. Half of its cost is avoidable in Trio: on entering and leaving, `CancelScope` makes a
generator-based context manager to see whether its deadline has changed, and looks at the clock,
also when it has no deadline. In a copy of Trio 0.35 that skips both for a scope without one, a
scope costs 2.0 instead of 4.4 µs, and row 5, measured side by side, went from 0.173 to 0.207.

Tried, and kept: blocks of ids instead of a sorted list (0.92 → 0.41 µs for coming and going); one
admission without lists (1.1 µs); members of enums looked up once, which on Python 3.11 cost
0.14 µs each (1.2 µs); one coroutine less around the handler, and the clock looked at less often
(0.6 µs); an id from a head that 65,536 share (0.2 µs). Together 18.2 → 15.0 µs, side by side and
without drops. Tried, and dropped, because it costs clarity for less than 3 %: ids from a generator,
times as integers, sampling the claims for `Retry-After`. Not done: a scope for several jobs, whose
leftovers no public function of Trio shows.

**A stream** (row 4) is the same 15 µs, 0.7 for the drop, 1.4 to parse and check a line, 2 for
waiting for room (the buffer is full, so ten jobs, one for each worker, are admitted at a time), and
the rest is the body on its way through the front door, and the watch for handlers that block. For
20 jobs to cost no more than one request of the bare application, a job may take some 17 µs, which
is little more than the core alone. Waiting without a cancel scope of its own gained 1 µs. Waiting
until there is more room would gain as much again, and would let streams starve beside single
submissions; so it was left. The cheaper scope described above would gain 2.3.

**A lookup among a million jobs** (row 6) is a few cache misses where a thousand jobs have none: the
dict's entry, the id's text, the record. The plain dict beside it shows the same growth without any
code of ours. A page is that for each of its jobs.

## What these figures do not say

- One machine, few cores, loopback. On a network the round trips of the peers cost more, and so
  does ours.
- The jobs are empty. With jobs of 10 ms nobody's queue is what limits the rate.
- The peers are at their documented defaults, apart from what is said here: ten jobs at a time, one
  worker process, no backend for results, no line in the log for each job, Redis without snapshots,
  uvicorn's connections kept open. Each of that helps them. arq looks for jobs every 0.5 s by
  default, and Huey at least every 0.1 s: both show.
- Nothing here measures durability, because trio-jobs has none beyond its process."""
