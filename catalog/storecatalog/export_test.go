package storecatalog

import "context"

// Summarize makes the next summaries of a month, however few marks it has.
func (c *Catalog) Summarize(ctx context.Context, month string) error {
	_, err := c.mendMonth(ctx, month, nil, false)
	return err
}
