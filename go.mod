module github.com/amberkv/amber

go 1.26
