"""The protobuf schema and its generated code; only ``schemas.codec`` imports it."""
