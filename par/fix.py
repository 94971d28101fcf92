s=open("/tmp/lead/me/par/edit2.py").read()
s=s.replace("""('''        self, examples: Sequence[PreparedExample], of: int, begin: Callable[[int], None]
''','''        self, examples: Sequence[PreparedExample], of: int, begin: Callable[[int, int], None]
'''),""","""('''of: int, begin: Callable[[int], None]''','''of: int, begin: Callable[[int, int], None]'''),""")
open("/tmp/lead/me/par/edit2.py","w").write(s)
