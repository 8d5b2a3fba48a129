"""Access rules: which children may join, which clients and operators have access, which addresses may be dialled."""
