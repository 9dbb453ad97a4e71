// links checks the documentation: that each relative link of a Markdown file
// leads to a file, and to a heading in it, and that each [Symbol] of a Go
// comment exists. It is run at the top of the repository.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

var wrong int

func report(format string, args ...any) {
	wrong++
	fmt.Printf(format+"\n", args...)
}

func main() {
	filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			report("%v", err)
		case e.IsDir() && len(path) > 1 && strings.HasPrefix(e.Name(), "."):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".md"):
			markdown(path)
		case e.IsDir():
			comments(path)
		}
		return nil
	})
	if wrong > 0 {
		os.Exit(1)
	}
}

var (
	code   = regexp.MustCompile("(?ms)^```.*?^```$|`[^`\n]*`")
	link   = regexp.MustCompile(`\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)|(?:src|srcset|href)="([^"]+)"|(?m:^\[[^\]]+\]:\s*(\S+))`)
	remote = regexp.MustCompile(`^[a-z]+:`)
)

func markdown(path string) {
	for _, target := range links(path) {
		file, anchor, _ := strings.Cut(target, "#")
		whole := path
		if file != "" {
			whole = filepath.Join(filepath.Dir(path), file)
		}
		if _, err := os.Stat(whole); err != nil {
			report("%s: no file %s", path, target)
		} else if anchor != "" && strings.HasSuffix(whole, ".md") && !anchors(whole)[anchor] {
			report("%s: no heading %s", path, target)
		}
	}
}

// links returns the relative ones.
func links(path string) (targets []string) {
	for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(read(path), ""), -1) {
		if target := m[1] + m[2] + m[3]; !remote.MatchString(target) {
			targets = append(targets, target)
		}
	}
	return targets
}

var (
	heading = regexp.MustCompile(`(?m)^#+ +(.*?) *#*$`)
	id      = regexp.MustCompile(`(?:id|name)="([^"]+)"`)
	marks   = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors returns what GitHub makes of the headings.
func anchors(path string) map[string]bool {
	all, text := make(map[string]bool), read(path)
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		title := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		anchor := strings.ReplaceAll(marks.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
		name := anchor
		for i := 1; all[name]; i++ {
			name = fmt.Sprintf("%s-%d", anchor, i)
		}
		all[name] = true
	}
	for _, m := range id.FindAllStringSubmatch(text, -1) {
		all[m[1]] = true
	}
	return all
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		report("%v", err)
	}
	return string(b)
}

// symbol is [Name], [*Name], [Type.Name], [pkg.Name] or [pkg.Type.Name]
// between spaces or punctuation, as go.dev/doc/comment has it.
var symbol = regexp.MustCompile(`(?:^|[\s(,;"'])\[\*?((?:[a-z][\w/]*\.)?[A-Z]\w*(?:\.[A-Z]\w*)?)\](?:[\s).,;:"'?!]|$)`)

// comments checks what the Go files of a directory document.
func comments(dir string) {
	fset := token.NewFileSet()
	own, imports := make(map[string]bool), make(map[string]string)
	var files []*ast.File
	names, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, name := range names {
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			report("%v", err)
			continue
		}
		files = append(files, f)
		for _, i := range f.Imports {
			path := strings.Trim(i.Path.Value, `"`)
			imports[path[strings.LastIndex(path, "/")+1:]] = path
			imports[path] = path
		}
		declared(f, own)
	}
	for _, f := range files {
		for _, group := range f.Comments {
			for _, m := range symbol.FindAllStringSubmatch(group.Text(), -1) {
				if exists(m[1], own, imports) {
					continue
				}
				report("%s: no symbol [%s]", fset.Position(group.Pos()), m[1])
			}
		}
	}
}

func exists(name string, own map[string]bool, imports map[string]string) bool {
	if own[name] {
		return true
	}
	i := strings.LastIndexFunc(name, func(r rune) bool { return r == '/' })
	pkg, rest, found := strings.Cut(name[i+1:], ".")
	if !found || pkg[0] < 'a' {
		return false
	}
	path, imported := imports[name[:i+1]+pkg]
	if !imported {
		path = name[:i+1] + pkg // one of the standard library's needs no import
	}
	dir := filepath.Join(runtime.GOROOT(), "src", path)
	if _, err := os.Stat(dir); err != nil {
		return imported // of another module
	}
	return standard(dir)[rest]
}

var known = make(map[string]map[string]bool)

func standard(dir string) map[string]bool {
	if all, ok := known[dir]; ok {
		return all
	}
	all := make(map[string]bool)
	known[dir] = all
	names, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, name := range names {
		if f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0); err == nil {
			declared(f, all)
		}
	}
	return all
}

// declared adds what a file declares: functions, types, values, methods, and
// the fields of structs and methods of interfaces.
func declared(f *ast.File, all map[string]bool) {
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				all[d.Name.Name] = true
			} else if len(d.Recv.List) > 0 {
				all[receiver(d.Recv.List[0].Type)+"."+d.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.ValueSpec:
					for _, n := range s.Names {
						all[n.Name] = true
					}
				case *ast.TypeSpec:
					all[s.Name.Name] = true
					members(s, all)
				}
			}
		}
	}
}

func receiver(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
}

func members(s *ast.TypeSpec, all map[string]bool) {
	var fields *ast.FieldList
	switch t := s.Type.(type) {
	case *ast.StructType:
		fields = t.Fields
	case *ast.InterfaceType:
		fields = t.Methods
	default:
		return
	}
	for _, f := range fields.List {
		for _, n := range f.Names {
			all[s.Name.Name+"."+n.Name] = true
		}
	}
}
