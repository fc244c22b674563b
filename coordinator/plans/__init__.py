"""The bundled plans: for each a plain ``nn.Module``, and the ``.plan`` file that ``export.py`` makes of it."""
