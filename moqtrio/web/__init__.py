"""The page of ``moqtrio serve --web``: a moq-lite client in plain JavaScript, no build step."""
