"""The viewer: a web page that pans and zooms over scenes, drawn tile by tile on demand."""
