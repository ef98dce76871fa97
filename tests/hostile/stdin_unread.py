# does not read a large input
# earns 1
print("harmless")
