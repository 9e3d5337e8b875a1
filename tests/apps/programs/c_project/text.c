#include "project.h"
#include <ctype.h>
size_t split(const char *text, char words[][32], size_t room)
{
    size_t count = 0;
    while (*text && count < room) {
        while (*text && !isalpha((unsigned char)*text)) text++;
        size_t length = 0;
        while (isalpha((unsigned char)*text) && length < 31) words[count][length++] = (char)tolower((unsigned char)*text++);
        words[count][length] = 0;
        if (length) count++;
    }
    return count;
}
