.PHONY: up down status reset
up down status reset:
	docker/stack $@
