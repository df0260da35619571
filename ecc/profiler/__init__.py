"""Widths → seconds and joules, measured on a device.

From the outside in (each module's first line says more):

    protocol   protocol, session, observation, pairing, steadying, resuming, warming, idle, window, design
    sensors    meters, gauges, runtimes, clock
    device     devices, host, cores, conditions, flags, locking
    rows       store, database, records, tables, exports, inspection
    operators  operators, operator_design, operator_chains, operator_modules
"""
