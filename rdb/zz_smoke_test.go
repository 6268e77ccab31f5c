package rdb
import ("testing";"os";"path/filepath";"io";"bufio";"fmt";"strings")
func TestSmoke(t *testing.T){
 m,_:=filepath.Glob("/work/shared/fixtures/*/*.rdb"); m2,_:=filepath.Glob("/work/shared/fixtures/*/*/*.rdb"); m=append(m,m2...)
 m3,_:=filepath.Glob("/work/shared/fixtures/dragonfly-1.40/*/*.dfs"); m=append(m,m3...)
 for _,f:=range m { fd,_:=os.Open(f); r:=NewReader(fd,nil); var err error; for err==nil {_,err=r.Next()}
  st,_:=fd.Stat()
  s:=r.Stats()
  lines:=0
  if g,e:=os.Open(strings.TrimSuffix(f,".rdb")+".jsonl");e==nil{ sc:=bufio.NewScanner(g); sc.Buffer(nil,1<<28); for sc.Scan(){lines++} } else {lines=-1}
  note:=""
  if err!=io.EOF || (lines>=0 && int64(lines)!=s.Keys) {note="  <<<<<"}
  fmt.Println(strings.TrimPrefix(f,"/work/shared/fixtures/"),r.Dialect(),s.Keys,lines,s.Checksum,s.Bytes==st.Size(),err==io.EOF, func() any { if err==io.EOF {return ""}; return err}(),note)
  fd.Close()
 }
}
