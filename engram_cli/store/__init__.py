"""What is on disk: artifacts (manifest + Arrow + safetensors), written whole and opened by memory map."""
