"""The bundled plans: for each a plain ``nn.Module`` and the ``.plan`` file that ``python -m coordinator.plans.export``
makes of it. A test exports them again and compares.
"""
