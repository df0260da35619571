"""Sweeps: many constrained jobs of one job file, on every machine there is, compared fairly.

job_file    TOML -> JobFile; every mistake with its line, before anything runs
claims      what jobs claim of a cluster, and which cluster
plan        JobFile -> jobs with stable ids: networks x devices x methods x budgets x seeds
ledger      the folder of a sweep: what is done, what failed and why, what is left; survives kill -9
engines     where jobs run: local processes, Ray; know nothing of what a job means
running     what a worker does with one job
gate        nothing of a sweep trains on a device while another job measures there
sweeping    plan + ledger + engine -> finished jobs
verb        ecc.sweep: all of it, from the path of a job file to finished jobs and their front
"""
