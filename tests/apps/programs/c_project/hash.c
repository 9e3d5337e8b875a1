#include "project.h"
unsigned hash_word(const char *word)
{
    unsigned hash = 5381;
    while (*word) hash = hash * 33 + (unsigned char)*word++;
    return hash;
}
