package rdb

// A Command is to be executed on top of the keys that come before it.
type Command struct {
	DB     int      // in which it is executed
	Offset int64    // in the stream that it comes from, in bytes from its start
	Args   [][]byte // its name and arguments
}

// WriteCommand ends the entry before and writes a command, which a Reader gives as an entry of KindJournal, with Command.Offset as its Txid. The
// Writer has to have WriterOptions.Commands.
func (w *Writer) WriteCommand(cmd *Command) error {
	if !w.next(&Entry{Kind: KindJournal, DB: cmd.DB}) {
		return w.err
	}
	if !w.carries || w.out.shards != nil {
		return w.unsupported("commands")
	}
	if len(cmd.Args) == 0 {
		return w.disorder("a command without a name")
	}
	// One record with one journal entry, dfs-format 2.8 and 6.6: its size goes before it.
	total := 0
	for _, a := range cmd.Args {
		total += len(a)
	}
	head := appendLength([]byte{journalSelect}, uint64(cmd.DB))
	head = append(head, journalCommand)
	for _, n := range [...]uint64{uint64(max(cmd.Offset, 0)), 1, uint64(len(cmd.Args)), uint64(total)} {
		head = appendLength(head, n)
	}
	size := len(head) + total
	var digits [16]byte
	for _, a := range cmd.Args {
		size += len(appendLength(digits[:0], uint64(len(a))))
	}
	o := &w.out
	o.byte(opJournal)
	o.length(1)
	o.length(uint64(size))
	o.write(head)
	for _, a := range cmd.Args {
		o.length(uint64(len(a)))
		o.write(a)
	}
	return w.fail()
}
