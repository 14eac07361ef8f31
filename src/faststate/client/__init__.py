"""The program in the browser, and its face in Python.

It loads Datastar, opens the page's stream, sends the events and shows the page's notices. Its modules are readable
JavaScript without a build step; `modules` serves them as they are, each under a name with its hash. The Python side
knows no state, no request and no provider. Begin with `faststate.js`, which every page loads.
"""
