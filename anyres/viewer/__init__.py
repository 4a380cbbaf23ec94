"""The viewer: a web page that pans and zooms over scenes, drawn tile by tile as they are looked at."""
