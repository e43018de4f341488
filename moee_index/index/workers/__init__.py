"""One index embedded by several processes, on one machine or as Ray actors on several.

    spool       the driver reads the corpus once; each document goes to the shard of its id
    tasks       what a process is asked to do: tell its model, embed a shard, derive from its rows
    pool        processes and what they are at; one that dies is started again
    local, on_ray   two ways of starting them
    writing     the driver: which shards are there, which are embedded, in which order they end

A shard becomes a segment like any other. What a build or an add makes of segments is left to them.
"""
