#include "project.h"
#include <stdio.h>
#include <string.h>
int main(void)
{
    static const char text[] = "The sea cannot cross a rock, and the rock cannot cross the sea; the sea is the sea.";
    struct node *table[8] = { 0 };
    char words[64][32];
    size_t count = split(text, words, 64);
    for (size_t i = 0; i < count; i++) list_find(&table[hash_word(words[i]) % 8], words[i])->count++;
    for (int i = 0; i < 8; i++)
        for (struct node *n = table[i]; n; n = n->next) printf("%d %s %u\n", i, n->word, n->count);
    printf("%.6f %.6f\n", one(2), two(3));
    return 0;
}
