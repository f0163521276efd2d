"""A simulated ECS region: a world that lives, and an HTTP endpoint speaking the SQS and ECS wire protocols.

`css demo` runs the daemon against it, the tests and benchmarks take it for AWS. It never touches a real account.

settings -> world (engine, fleet, tasks, services, incidents) -> events -> faults -> queue --.
                        `-> inventory -> ecs_api ------------------------------> endpoint <-' sqs_api
"""
