package rdb
import ("testing";"os";"io";"fmt")
func BenchmarkBig(b *testing.B){
 for _,n:=range []string{"big2","big"} { b.Run(n,func(b *testing.B){
 fd,_:=os.Open("/tmp/rdbsmoke/"+n+".rdb"); st,_:=fd.Stat(); b.SetBytes(st.Size())
 for b.Loop() { fd.Seek(0,0); r:=NewReader(fd,nil); var err error; for err==nil {_,err=r.Next()}; if err!=io.EOF {b.Fatal(err)}; if b.N==1 {fmt.Println(r.Stats())} }
 })}
}
