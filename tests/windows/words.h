/* What a command line says. */
#include <windows.h>

/* What stands behind the first word, quotes and all. */
static char *rest(char *line)
{
    BOOL quoted = FALSE;
    for (; *line && (quoted || *line != ' '); line++)
        if (*line == '"')
            quoted = !quoted;
    while (*line == ' ')
        line++;
    return line;
}
