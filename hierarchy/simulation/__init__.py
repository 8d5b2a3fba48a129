"""`hierarchy simulate`: what a tree would do under a load, before the hardware is bought.

Discrete events over the classes of a running node: registry, child, dispatch, policies, and the decision when to
report. What is simulated is only what is outside of this program: clients, engines, and the time that messages take.

    load, traces    what clients send, and when: a `Conversation` after the other
    prompt          what a prompt is made of, so that two prompts can share a beginning
    events          the clock, and what happens next
    node, uplink    a node: the production classes, with an injected clock
    engine, cache   an engine: slots, rates, and a cache of prefixes
    tree            all of it, from a configuration
    central         routers to compare with: one that knows everything
    run, measures   one simulation, and its result
    plot            results as a picture
"""
