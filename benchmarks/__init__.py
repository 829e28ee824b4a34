# SPDX-License-Identifier: Apache-2.0
"""Measurements beside other servers: one module a question, see `make bench` and RESULTS.md.

How the figures come about
--------------------------
* What is compared is measured in turns in one run (A B C, C B A, ...), and what is reported is
  the median of the ratios of neighbours, with their range. Absolute numbers of a virtual machine
  change from hour to hour, ratios in one run much less.
* CPU of servers is user + system of their processes and all their threads and children, over the
  whole run of the client, by request; that of the client is what fio says.
* A ratio whose pairs differ so much that its median is not sure to 3 % is noise. Such rows are measured further, up
  to twice as often, while there is time, and if need be marked with "~" and named at the end.
* A run ends within fifteen minutes (--minutes says otherwise): each question has the share of it that it took in the
  last full run, and rounds beyond two are left out when that has passed. Published figures come from longer ones.
* Every sample carries the CPU that others used meanwhile (kernel threads apart). One with more than
  machine.DISTURBED is taken again, and if need be kept and marked with a dagger.
* All servers get what they serve by the same 4 KiB writes over NBD. So the page cache holds
  small folios for all: filled by readahead it would hold large ones, which make small writes
  ten times slower on some kernels. What has fallen out of the cache is read again by 4 KiB
  reads before a round.
* Nothing is done to the machine as a whole: no caches are dropped, no frequency or priority set.

Each question leaves results/KIND/NAME.json (everything measured, the machine, the command), NAME.svg beside it, and its
part of RESULTS.md, which `--report` makes again from the JSON files; those of quick runs are in build/bench. KIND is
the number and model of the machine's CPUs, so that a run on another kind replaces nothing.

`make bench COMPARE=revision` puts this tree beside an older one (benchmarks/compare.py), into build/bench.
"""
